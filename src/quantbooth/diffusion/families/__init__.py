"""One file for each family of bases: how its networks are made, called and named; `registry` lists them."""
