"""Data sets as a run reads them: records, videos and batches."""
