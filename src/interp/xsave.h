/* XSAVE inside: where the components that CPUID shows lie. */
#ifndef NB_XSAVE_H
#define NB_XSAVE_H

#include "interp/x87.h"

/* Standard-form offset of PKRU: right behind AVX, since nothing between is shown. CPUID leaf 0Dh, sub-leaf 9, EBX. */
#define XSAVE_PKRU_OFFSET 832

#endif
