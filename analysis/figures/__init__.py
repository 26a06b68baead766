"""The figures, a file for each or for a few of one subject: data and chart together."""
