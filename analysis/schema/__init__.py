"""What a trial is made of: fields, their ranges, and the axes along which sweeps vary them."""
