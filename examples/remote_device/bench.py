"""What runs on the device: the median time of an ONNX file in milliseconds, as the last number that is printed."""

import sys
import time

import numpy
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shapes = {i.name: [n if isinstance(n, int) else 1 for n in i.shape] for i in session.get_inputs()}
inputs = {name: numpy.zeros(shape, numpy.float32) for name, shape in shapes.items()}
times = []
for _ in range(60):
    began = time.perf_counter()
    session.run(None, inputs)
    times.append(1000 * (time.perf_counter() - began))
print(f"{numpy.median(times[10:])} ms")
