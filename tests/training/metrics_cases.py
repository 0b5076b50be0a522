"""What of metrics.jsonl is compared between runs."""

_TIMING = ("seconds", "time")  # fields that hold wall-clock figures start so


def without_timing(records):
    """Records less their wall-clock fields: equal in runs that computed the same."""
    return [
        {key: value for key, value in record.items() if not key.startswith(_TIMING)}
        for record in records
    ]
