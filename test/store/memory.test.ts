import { test } from 'tap'
import { createSystemClock } from '../../src/clock.ts'
import { MemoryServer } from '../helpers/memory-store.ts'
import { testStoreContract } from './contract.ts'

// The store of `shared-streams.test.ts` keeps what every store promises.
test('a store in memory', async (t) => {
  const server = new MemoryServer(createSystemClock())
  testStoreContract(t, (_t, lease) => server.connect(lease))
})
