"""Command lines on argparse: options made from a settings record, help in groups, one-line errors."""
