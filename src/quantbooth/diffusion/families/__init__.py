"""Model families, one file each: how their networks are built, called and named; `registry` lists them."""
