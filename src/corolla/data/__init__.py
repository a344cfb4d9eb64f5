"""Images, the data sets they come from, and how they are divided among clients."""
