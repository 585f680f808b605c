"""What these tests share with those of the hive's parts."""

from tests.unit.hive.conftest import quick

__all__ = ["quick"]
