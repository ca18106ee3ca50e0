"""From validated cells to results: plan, schedule, records, tracking, report."""
