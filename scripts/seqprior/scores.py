"""One score table per model: shards joined, calibrated, skipped alleles with their reasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seqprior.calibration import Calibration
from seqprior.columns import ALLELE, SCORES, Status, scores_schema
from seqprior.files import written_whole


def gather_scores(variants: Path, shards: Sequence[Path], calibration: Calibration, fasta: Path, output: Path) -> None:
    """Write `scores/{model}.parquet`: `columns.SCORES`, one row per unique input allele, in the order of `variants`.

    Shard by shard, so that memory does not grow with the number of alleles. Shards hold the alleles that reached a
    sequence in the order of `variants.parquet`; the others are set between them.

    Raises:
        AssertionError: the shards do not hold exactly the alleles of `variants`.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = scores_schema()
    waiting = _Rows(shards)
    columns = [*ALLELE, "status", "reason"]
    with (
        pq.ParquetFile(variants) as table,
        written_whole(output) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        for batch in table.iter_batches(columns=columns):
            frame = batch.to_pandas()
            kept = frame["status"] == Status.SCORED
            scores = waiting.take(int(kept.sum()))
            if scores["variant_id"].tolist() != frame.loc[kept, "variant_id"].tolist():
                raise AssertionError(f"the score shards do not follow the alleles of {variants}")
            scores["llr_calibrated"] = scores["llr"] - calibration.expected(scores, fasta)
            scores.index = frame.index[kept]
            joined = pd.concat([scores, frame[~kept]]).sort_index().reindex(columns=list(SCORES))
            joined["method"] = joined["method"].fillna("")
            writer.write_table(pa.Table.from_pandas(joined, schema=schema, preserve_index=False))
        if len(waiting.take(1)):
            raise AssertionError(f"the score shards hold more alleles than {variants}")


class _Rows:
    """Rows of several Parquet files as one stream."""

    def __init__(self, paths: Sequence[Path]) -> None:
        import pandas as pd

        self._frames = (pd.read_parquet(path) for path in paths)
        self._rest = pd.DataFrame(columns=list(SCORES))

    def take(self, count: int):
        """The next `count` rows, or what is left."""
        import pandas as pd

        while len(self._rest) < count:
            following = next(self._frames, None)
            if following is None:
                break
            self._rest = following if self._rest.empty else pd.concat([self._rest, following], ignore_index=True)
        taken, self._rest = self._rest.iloc[:count].copy(), self._rest.iloc[count:]
        return taken
