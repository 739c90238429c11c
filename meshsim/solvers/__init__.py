"""Reference solvers on scikit-fem (extra `solve`): they make data and judge learned simulators."""
