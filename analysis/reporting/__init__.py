"""What the report of a study is made of: sections, tables, and the page around them."""
