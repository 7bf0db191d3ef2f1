"""Everything drawn with rich: progress, tables, and plain lines where there is no terminal."""
