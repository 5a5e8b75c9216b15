"""Tools for trace files: `fineserve trace inspect | fit | synth | convert`."""
