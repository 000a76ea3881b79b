"""Measured latency: backends that run networks, and a predictor to search with."""

from objectives.latency.backend import Backend as Backend
from objectives.latency.backend import Build as Build
from objectives.latency.backend import rebatched as rebatched
from objectives.latency.command import Command as Command
from objectives.latency.comparing import Comparison as Comparison
from objectives.latency.comparing import compare as compare
from objectives.latency.compiled import Compiled as Compiled
from objectives.latency.eager import Eager as Eager
from objectives.latency.held_out import Quality as Quality
from objectives.latency.measuring import cache_folder as cache_folder
from objectives.latency.measuring import study as study
from objectives.latency.needed import backends as backends
from objectives.latency.needed import predictors as predictors
from objectives.latency.needed import reached_with_depth as reached_with_depth
from objectives.latency.onnx_runtime import OnnxRuntime as OnnxRuntime
from objectives.latency.predictor import Latency as Latency
from objectives.latency.predictor import fit as fit
from objectives.latency.registry import BACKENDS as BACKENDS
from objectives.latency.registry import make as make
from objectives.latency.steps import fast_divisors as fast_divisors
from objectives.latency.steps import with_divisors as with_divisors
from objectives.latency.tensor_rt import TensorRT as TensorRT
from objectives.latency.timing import Timing as Timing
from objectives.latency.timing import take_turns as take_turns
from objectives.target import Setting as Setting
from objectives.target import Target as Target
