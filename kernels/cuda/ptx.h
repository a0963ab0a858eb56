// The one door between kernels and the machine: every kernel and tile header includes this file, and reaches the GPU
// through the functions it brings. On a device each is one PTX instruction; in tests the same names are the host
// model (`kernels/host`). Included sources are named relative to `kernels/`.
#pragma once

#include "cuda/types.h"

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#include "cuda/ptx/warp.h"
#include "cuda/ptx/memory.h"
#include "cuda/ptx/cp_async.h"
#include "cuda/ptx/mma.h"
#include "cuda/ptx/convert.h"
#include "cuda/ptx/mbarrier.h"
#include "cuda/ptx/cluster.h"
#include "cuda/ptx/tma.h"
#include "cuda/ptx/wgmma.h"
#else
#include "host/ptx/warp.h"
#include "host/ptx/memory.h"
#include "host/ptx/cp_async.h"
#include "host/ptx/mma.h"
#include "host/ptx/convert.h"
#include "host/ptx/mbarrier.h"
#include "host/ptx/cluster.h"
#include "host/ptx/tma.h"
#include "host/ptx/wgmma.h"
#endif
