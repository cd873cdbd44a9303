"""Experiment trackers that a run can be followed in: TensorBoard, MLflow, Weights & Biases.

Each is an extra, such as `pip install 'fedquit[mlflow]'`; nothing here imports one before it is asked for. Where the
tracker itself is (its server, its project, its credentials) its own environment variables say. docs/trackers.md.
"""

from fedquit.trackers.tracker import TRACKERS, TrackedRun, Tracker, open_tracker, tracker_names
from fedquit.trackers.tracking import Tracking

__all__ = ["TRACKERS", "TrackedRun", "Tracker", "Tracking", "open_tracker", "tracker_names"]
