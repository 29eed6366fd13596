"""Three plain queries over a run folder with Python's polars: what booking it is compared with.

1. device time and launches by phase of the step and kernel;
2. idle gaps between launches by a window function, longest first;
3. the requests with the most rows, with their lead time.
"""

import sys
import time

import polars as pl

folder = sys.argv[1]


def queries() -> None:
    launches = pl.scan_parquet(f"{folder}/launches.parquet")
    steps = pl.scan_parquet(f"{folder}/steps.parquet")
    rows = pl.scan_parquet(f"{folder}/rows.parquet")
    requests = pl.scan_parquet(f"{folder}/requests.parquet")
    phase = steps.select("step_id", (pl.col("rows_prefill") > 0).alias("prefill"))
    by_kernel = (
        launches.join(phase, on="step_id")
        .group_by("prefill", "kernel")
        .agg((pl.col("end_ns") - pl.col("start_ns")).sum(), pl.len())
    )
    gaps = launches.select(
        (pl.col("start_ns") - pl.col("end_ns").shift(1).over("device")).alias("gap")
    ).sort("gap", descending=True).head(100)
    dearest = (
        rows.group_by("request_id")
        .agg(pl.col("rows").sum())
        .join(requests, on="request_id")
        .with_columns((pl.col("finish_ns") - pl.col("arrival_ns")).alias("lead_ns"))
        .sort("rows", descending=True)
        .head(100)
    )
    for query in (by_kernel, gaps, dearest):
        query.collect(engine="streaming")


for repeat in range(1, 4):
    began = time.perf_counter()
    queries()
    print(f"polars {repeat}: {time.perf_counter() - began:.2f} s")
