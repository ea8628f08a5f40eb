"""Settings of the quota service; every variable is described by the chassis or here."""

from pydantic import Field

from tokenomics_chassis.settings import RpcSettings, ServiceSettings


class ProjectSettings(ServiceSettings):
    """What ``project`` and ``replay`` need."""

    max_parked_in_a_row: int = Field(default=100, ge=1)
    """So many records of one partition parked in a row stop the projection: the reader must be wrong."""


class ServeSettings(RpcSettings, ServiceSettings):
    """What ``serve`` needs."""
