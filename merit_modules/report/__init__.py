"""From the folders of finished runs to the tables of a paper."""
