"""Every file of a run folder by its name, said once. No torch here."""

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
SNAPSHOTS = "snapshots"
SET = "distilled.safetensors"
# The statistics of a large whitening, beside the set; named by their hash.
WHITENING = "whitening-{}.safetensors"
BEFORE, AFTER = "initial.png", "images.png"
# Records: of the experts, of each network that was trained to score a set, of the scores, and of the whole run.
EXPERTS_JSON, NETWORKS, EVALUATION, SUMMARY = "experts.json", "networks.json", "evaluation.json", "summary.json"
REPORT = "report.html"
# How far a log of --log was told, in the log's folder.
LOGGED = "logged.json"
# What other verbs leave beside a set, and what a stream of classes leaves.
TRANSFER, RANKING, SIZES, SEARCH = "transfer.json", "ranking.json", "sizes.json", "search.json"
STREAM = "continual.json"
# In a folder of experts: an expert by its name, such as expert_0003, and what its training goes on from until then.
EXPERT, UNFINISHED = "expert_{}.safetensors", ".expert_{}.unfinished.safetensors"
