"""What is measured, how, and against what. `make bench` runs all; `python -m benchmarks NAME...` some.

Figures are printed and never asserted: machines are noisy. Where two things are compared, both run in the same minute.
"""
