"""SIMULATED Client Portal gateway: replays real daily prices through the Client Portal Web API (v1)."""
