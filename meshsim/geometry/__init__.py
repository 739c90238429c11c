"""Pure functions of tensors: cell tables, topology, measures, quality. No Mesh in here."""
