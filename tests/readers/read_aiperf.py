"""AIPerf's own models read the request records: read_aiperf.py RUN."""

import sys

from aiperf.common.models.record_models import MetricRecordInfo
from aiperf.metrics.metric_registry import MetricRegistry

records = []
for line in open(f"{sys.argv[1]}/export/profile_export.jsonl"):
    records.append(MetricRecordInfo.model_validate_json(line))
assert len(records) == 40, len(records)
known = set(MetricRegistry.all_tags())
for record in records:
    assert record.metadata.request_start_ns < record.metadata.request_end_ns
    for name, metric in record.metrics.items():
        assert name.startswith("gemba_") or name in known, name
        if name in known:
            unit = MetricRegistry.get_class(name).display_unit or MetricRegistry.get_class(name).unit
            assert str(unit) == metric.unit, (name, str(unit), metric.unit)
    latency = record.metrics["request_latency"].value
    lasted = record.metadata.request_end_ns - record.metadata.request_start_ns
    assert abs(latency * 1e6 - lasted) < 1, (latency, lasted)
print(f"{len(records)} records")
