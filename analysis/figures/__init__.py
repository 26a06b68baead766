"""The figures, one file per section of the page: data and chart together."""
