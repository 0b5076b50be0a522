# The project with JAX for one kind of device: docker build --build-arg EXTRA=tpu -t medscope .
# EXTRA is a file of requirements/: tpu, cuda12 or cuda13. GPUs need the NVIDIA container toolkit.
#
#     docker run --privileged --net=host medscope check --distributed          on each host of a TPU
#     docker run --gpus all -v $PWD/runs:/runs medscope train --config tpu_configs/gpu.py --workdir /runs/a
FROM python:3.11-slim

ARG EXTRA=tpu
WORKDIR /medscope_jax

# What changes rarely comes first: a change of the project installs nothing anew.
COPY requirements.txt ./
COPY requirements/${EXTRA}.txt requirements/
RUN python -m pip install --no-cache-dir -r requirements.txt -r requirements/${EXTRA}.txt gcsfs

COPY . .
RUN python -m pip install --no-cache-dir --no-deps -e .

ENTRYPOINT ["medscope"]
