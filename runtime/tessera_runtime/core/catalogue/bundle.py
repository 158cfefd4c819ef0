"""Codes of the bundle format."""

from __future__ import annotations

from tessera_runtime.core.catalogue.entry import Entry

__all__ = ["ENTRIES"]

ENTRIES = (
    # --- E6xx: bundle ----------------------------------------------------------------------------------------------
    Entry("E601", "not a bundle", 5,
          "The file does not start with a `tsb.header` entry: it is no bundle, or its first bytes were altered."),
    Entry("E602", "bundle has the wrong length", 5,
          "The file is shorter or longer than its header says: it was truncated, or something was appended."),
    Entry("E603", "container version not supported", 5,
          "The bundle has a container version that this runtime does not read. The message has both numbers."),
    Entry("E604", "bundle header invalid", 5,
          "A field of `tsb.header` is out of range, a reserved byte is not zero, or its checksum is wrong."),
    Entry("E605", "manifest digest mismatch", 5,
          "The manifest's bytes do not have the SHA-256 that the header names: the bundle was altered."),
    Entry("E606", "ZIP local header outside the strict profile", 5,
          "A local header uses compression, flags, dates, sizes or fields that the bundle format forbids."),
    Entry("E607", "ZIP central directory disagrees", 5,
          "A central directory record differs from the entry's local header or from the manifest."),
    Entry("E608", "ZIP end record invalid", 5,
          "The end-of-central-directory records are not exactly those that the entries imply."),
    Entry("E609", "entry name not allowed", 5,
          "An entry's name is outside the whitelist, repeated, or out of order."),
    Entry("E610", "gap or misaligned entry", 5,
          "The bytes between entries are not exactly the zero padding that alignment needs."),
    Entry("E611", "entry digest mismatch", 5,
          "An entry's bytes do not have the SHA-256 that the manifest names: the bundle was altered."),
    Entry("E612", "entry not in the bundle", 5,
          "An entry was asked for that the bundle's manifest does not list."),
    Entry("E613", "entry checksum mismatch", 5,
          "An entry's bytes do not have the CRC-32 of its ZIP record."),
    Entry("E614", "weights not found", 5,
          "The bundle does not hold its weights (`tesseracc build --external-weights`): they are in a file named by "
          "their digest beside it, or in the folder that `--weights` or `load(.., weights=..)` names."),
    Entry("E620", "manifest is not canonical JSON", 5,
          "The manifest is not the one canonical spelling of its value: sorted unique keys, no spaces, integers "
          "only, ASCII."),
    Entry("E621", "manifest field invalid", 5,
          "A manifest field is missing, unknown, of the wrong type, or beyond its limit. The message has its path."),
    Entry("E622", "manifest version not supported", 5,
          "A version of the manifest is one that this runtime does not read. The message has both numbers."),
    Entry("E623", "manifest inconsistent", 5,
          "Parts of the manifest contradict each other: an index out of range, an unknown name, arguments that do "
          "not fit a kernel."),
    Entry("E624", "shape expression invalid", 5,
          "A shape expression in the manifest is not a well-formed postfix program over the function's symbols."),
    Entry("E625", "launch contradicts its kernel", 5,
          "At the extents of this call, the plan launches a kernel over another grid, or with smaller or larger "
          "buffers, than the kernel declares. No code of the call was run."),
    Entry("E630", "code image invalid", 5,
          "A code image is not in the strict form that the loader accepts. Nothing of it was executed."),
    Entry("E631", "kernel not in its image", 5,
          "A kernel's symbol is missing from the code image, or lies outside its executable range."),
    Entry("E632", "PTX is not text", 5,
          "A PTX entry of the bundle is not ASCII text."),
    Entry("E633", "kernels described otherwise", 5,
          "A code image holds a digest of how its kernels are described (parameters, shapes, grid, scratch memory), "
          "and the manifest describes them otherwise. Nothing of it was executed."),
    Entry("E640", "safetensors file invalid", 5,
          "The weights are not a well-formed safetensors file: header length, JSON, offsets, dtype or shape."),
    Entry("E641", "embedded test invalid", 5,
          "The tensors of an embedded test are not the inputs and results of its function."),
    Entry("E650", "signatures malformed", 5,
          "The signatures of a bundle are not in the one form that the format allows: 96 bytes each, sorted by key."),
    Entry("E651", "bundle not signed by a trusted key", 5,
          "A signature was required, and the bundle has none of the required key, or of any key in the keyring."),
    Entry("E652", "signature wrong", 5,
          "A signature in the bundle does not belong to its content: the bundle was altered after it was signed, or "
          "the signature was made for another."),
    Entry("E660", "bundle's recipe cannot be repeated", 5,
          "The bundle does not say from what and how it was built, says it in words of another compiler, or the source "
          "that was given is not the recorded one. Use the compiler and the source that `tesseracc inspect` names."),
    Entry("E661", "bundles do not go together", 5,
          "The bundles to merge were not made from the same program: their functions, constants, sources or options "
          "differ; `tesseracc diff` shows where. Or nothing would be left of a bundle to strip."),
)  # fmt: skip
