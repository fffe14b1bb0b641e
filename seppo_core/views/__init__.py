"""Whatever ends as a picture: curves, maps, sheets and grids."""
