"""Networks behind VBench's native dimensions: frames to features, scores, flow and classes, from published weights."""
