// The CPU library: every body once in float, which training uses, and once in double, in which its gradients are checked.
#define REAL float
#define NAME(x) x##_f32
#include "all.h"
#undef REAL
#undef NAME
#define REAL double
#define NAME(x) x##_f64
#include "all.h"
