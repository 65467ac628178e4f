"""Downloads files by URL or hub id, with limits. Does not read their content."""
