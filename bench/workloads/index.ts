import type { Workload } from '../harness/workload.ts'
import { fanout } from './fanout.ts'
import { idle } from './idle.ts'
import { latency } from './latency.ts'
import { registry } from './registry.ts'
import { replay } from './replay.ts'
import { retention } from './retention.ts'
import { slow } from './slow.ts'
import { shared } from './store.ts'
import { streams } from './streams.ts'

export const WORKLOADS: readonly Workload[] = [
  fanout,
  streams,
  replay,
  idle,
  retention,
  registry,
  slow,
  latency,
  shared
]
