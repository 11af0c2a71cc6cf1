"""The claims ledger's data (one JSON file a lesson) and the checks that compute each verdict."""
