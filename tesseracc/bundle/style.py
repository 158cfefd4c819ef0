"""The style sheet of the page: system fonts, light and dark."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--panel:#fff;--ink:#1b2330;--soft:#5d6b80;--line:#dde2ea;--accent:#2456c9;
--input:#e3edff;--constant:#efe6fb;--step:#fff3d6;--output:#dff5e6;--hit:#fff1c2;--code:#2456c9;--weights:#8a4fd0;
--manifest:#e0a020;--container:#9aa7b8;--tests:#2f9e60}
@media (prefers-color-scheme:dark){:root{--bg:#12161d;--panel:#1a202a;--ink:#e4e9f2;--soft:#98a5b8;--line:#2c3542;
--accent:#7fa8ff;--input:#1d2f52;--constant:#34254d;--step:#43381b;--output:#1a3d29;--hit:#4a3f16}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1500px;margin:0 auto;padding:24px}
h1{margin:0;font-size:28px}h2{margin:0 0 10px;font-size:19px}h3{margin:22px 0 8px;font-size:16px}
h4,h5{margin:14px 0 6px;font-size:13px;color:var(--soft);font-weight:600}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
code,pre,.digest,td{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12.5px}
.digest{margin:4px 0 16px;color:var(--soft);overflow-wrap:anywhere}
.cards{display:flex;flex-wrap:wrap;gap:12px}
.card{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:10px 18px;min-width:110px}
.card b{display:block;font-size:21px}.card span{color:var(--soft);font-size:12.5px}
nav{margin:18px 0;display:flex;flex-wrap:wrap;gap:6px 16px}
section,.target{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:16px 0}
summary{cursor:pointer;padding:3px 0}.target>summary{display:flex;gap:14px;align-items:baseline}
.target>summary h2{margin:0}.target>summary span{color:var(--soft)}
.target>summary::before{content:"\\25b8";color:var(--soft)}.target[open]>summary::before{content:"\\25be"}
.bar{display:flex;height:18px;border-radius:5px;overflow:hidden;background:var(--line)}
.bar i{min-width:1px}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:8px 0;color:var(--soft);font-size:13px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
i.code{background:var(--code)}i.weights{background:var(--weights)}i.manifest{background:var(--manifest)}
i.container{background:var(--container)}i.tests{background:var(--tests)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th{font-size:12px;color:var(--soft);font-weight:600;text-align:left}
td,th{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th.n,td.n,td:first-child,td:last-child:not(#provenance td){white-space:nowrap}
th.n,td.n{text-align:right}
.function+.function{border-top:1px solid var(--line);margin-top:14px;padding-top:10px}
.function ul,.params{margin:6px 0;padding-left:22px;color:var(--soft)}
pre{margin:6px 0;padding:10px 12px;background:var(--bg);border:1px solid var(--line);border-radius:7px;overflow:auto;
max-height:560px;tab-size:4}
pre.signature{font-size:14px;white-space:pre-wrap}
pre b{color:var(--soft);font-weight:400}.hit{background:var(--hit);display:inline-block;min-width:100%}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:14px}.columns>div{min-width:0}
svg text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:var(--soft);text-anchor:middle}
svg .name{font-weight:600;font-size:12px;fill:var(--ink)}
svg rect{stroke:var(--line);stroke-width:1.2}
.edge{fill:none;stroke:var(--soft);stroke-width:1.3;opacity:.65}.edge:hover{stroke:var(--accent);opacity:1}
.input rect{fill:var(--input)}.constant rect{fill:var(--constant)}.step rect{fill:var(--step)}
.output rect{fill:var(--output)}
.memory .temp rect{fill:var(--input);stroke:var(--accent)}.memory text{text-anchor:start}
.memory .temp text{fill:var(--ink)}.memory line{stroke:var(--line)}
@media print{body{background:#fff}.target,section{break-inside:avoid}}
"""
