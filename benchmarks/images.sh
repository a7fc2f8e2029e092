#!/bin/sh
# Sizes of the images that run, and of all their layers together with shared ones counted once.
set -eu
refs=$(docker ps --all --filter "label=quantops.stack=${STACK:-quantops}" --format '{{.Image}}' | sort -u)
[ -n "$refs" ] || { echo "There is no stack named ${STACK:-quantops} (STACK)." >&2; exit 1; }
# shellcheck disable=SC2086 # one word an image
docker image inspect $refs | python3 -c '
import json, subprocess, sys
total = {}
for image in json.load(sys.stdin):
    tag = image["RepoTags"][0]
    print(f"{tag:<48} {image['"'"'Size'"'"'] / 1e6:8.0f} MB")
    sizes = subprocess.run(["docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}}", tag],
                           capture_output=True, text=True, check=True).stdout.split()
    layers = image["RootFS"]["Layers"]
    for layer, size in zip(layers, [int(size) for size in reversed(sizes) if int(size)], strict=False):
        total[layer] = size
print(f"{'"'"'all layers, shared ones once'"'"':<48} {sum(total.values()) / 1e6:8.0f} MB")
'
