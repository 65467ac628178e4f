"""Commands on argparse: options made from a record of settings, help in groups, errors in one line."""
