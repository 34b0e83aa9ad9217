"""Tests of the scan's judgement over values."""
