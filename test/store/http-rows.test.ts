import t from 'tap'
import { runAgain } from '../helpers/run-again.ts'

// What a client gets of several instances is what it gets of one: each answer, each frame, each guarantee.

await runAgain(t, [
  'http/resume.test.ts',
  'http/wire.test.ts',
  'http/control-events-off.test.ts',
  'http/refused.test.ts',
  'hardening/whose-stream.test.ts',
  'prefix-and-resume.test.ts'
])
