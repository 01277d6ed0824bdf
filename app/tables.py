"""Every table, imported so that the metadata is whole: for migrations, and for whoever opens the database."""

from app.artifacts.tables import Artifact, ArtifactInput
from app.audit.tables import AuditEntry
from app.auth.tables import ApiKey, IdempotencyKey, Project
from app.datasets.tables import Dataset
from app.db import Base
from app.events.tables import Event
from app.fleet.tables import DeviceLease, Worker
from app.jobs.tables import Consumption, Gang, GangSeat, Job, JobLog, JobStep, StepResult
from app.measurements.tables import Measurement
from app.models.tables import Model
from app.retention.tables import Pause, TreeFile
from app.uploads.tables import Upload
from app.webhooks.tables import Webhook, WebhookDelivery

__all__ = [
    "ApiKey", "Artifact", "ArtifactInput", "AuditEntry", "Base", "Consumption", "Dataset", "DeviceLease", "Event", "Gang",
    "GangSeat", "IdempotencyKey", "Job", "JobLog", "JobStep", "Measurement", "Model", "Pause", "Project", "StepResult", "TreeFile", "Upload",
    "Webhook", "WebhookDelivery", "Worker",
]  # fmt: skip

metadata = Base.metadata
