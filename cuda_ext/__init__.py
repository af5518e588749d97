"""Kernels: one body each in plain C++, compiled for the CPU by us and for NVIDIA at run time; plain torch is the twin and the fall-back.

    bodies/     the kernels, without includes; macros.h makes one text run on both machines
    cpu.py      finds our compiled library for this machine and runs it on torch's number of threads
    cuda*.py    compile them for this machine's NVIDIA GPU, keep the result on the disk, and launch it
    ops.py      the kernels as torch operators (torch.library), and the two functions that have gradients
    build.py    compiles bodies/ into lib/ for every platform, with one cross-compiler from pip
    lib/        what build.py and cuda_shipped.py made

Nothing here knows a field, a camera or a setting. Twins stand where they are used: engine/rendering, engine/fields.
"""
