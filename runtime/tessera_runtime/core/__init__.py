"""The leaf that the language, the compiler and the runtime share: errors, dtypes, shape expressions, input specs."""
