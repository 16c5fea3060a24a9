/* The processor that the tests run on. The guest's is an Intel; where the manual leaves a result open, another vendor's silicon may decide otherwise. */
#ifndef NB_TEST_HOST_CPU_H
#define NB_TEST_HOST_CPU_H

#include <cpuid.h>
#include <stdbool.h>

static inline bool host_cpu_is_intel(void)
{
	unsigned a, b, c, d;
	return __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx;
}

#endif
