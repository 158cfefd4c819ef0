"""The leaf that the language, the compiler and the runtime share: error catalogue, dtypes, shape expressions, input specs."""
