"""Physics on tensors: forces, conservation, divergence-free heads, boundary conditions, panels."""
