#include "macros.h"
#include "composite.h"
#include "march.h"
#include "dense_field.h"
