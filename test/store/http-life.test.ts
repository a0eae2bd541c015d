import t from 'tap'
import { runAgain } from '../helpers/run-again.ts'

// The rest of what can be seen from outside: bad input, hostile input, the life of streams, clients that leave, shutdown.

await runAgain(t, [
  'http/api.test.ts',
  'http/bad-input.test.ts',
  'http/fastify-disconnect.test.ts',
  'http/life.test.ts',
  'http/shutdown.test.ts',
  'hardening/injection.test.ts'
])
