import fc from 'fast-check'
import { test } from 'tap'
import { KEYS, Schedule, type Command, type ScheduleSettings } from './helpers/schedule.ts'

// More steps: SCHEDULE_STEPS=5000000. A failure prints its seed, its path and the shortest history that still fails; the
// same again: SCHEDULE_SEED=<seed>, with SCHEDULE_PATH=<path> just that history.
const STEPS = Number(process.env['SCHEDULE_STEPS'] ?? 100_000)
const SEED = process.env['SCHEDULE_SEED']
const PATH = process.env['SCHEDULE_PATH']
// A failure is made shorter until then.
const TIME_LIMIT_MS = process.env['SCHEDULE_STEPS'] === undefined ? 230_000 : 2_147_483_647

// Lengths are drawn with a bias to short ones.
const MAX_LENGTH = 160
const RUNS = Math.ceil(STEPS / (MAX_LENGTH * 0.42))

const key = fc.nat({ max: KEYS - 1 })
const client = fc.nat({ max: 11 })
// A third of the sizes is near what a quarter, or the whole, of the log takes.
const size = fc.oneof(
  fc.integer({ min: 1, max: 40 }),
  fc.integer({ min: 1, max: 40 }),
  fc.integer({ min: 200, max: 1_100 })
)

const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('start'),
      key,
      isDeaf: fc.boolean(),
      isAborted: fc.nat({ max: 9 }).map((n) => n === 0)
    })
  },
  {
    weight: 16,
    arbitrary: fc.record({
      do: fc.constant('open'),
      key,
      isDeaf: fc.boolean(),
      isLive: fc.boolean(),
      reads: fc.boolean()
    })
  },
  { weight: 12, arbitrary: fc.record({ do: fc.constant('resume'), client, reads: fc.boolean() }) },
  { weight: 12, arbitrary: fc.record({ do: fc.constantFrom('drop', 'stall', 'drain', 'drain'), client }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('take'), client, bytes: fc.integer({ min: 1, max: 400 }) }) },
  {
    weight: 24,
    arbitrary: fc.record({ do: fc.constant('yield'), key, sizes: fc.array(size, { minLength: 1, maxLength: 8 }) })
  },
  { weight: 6, arbitrary: fc.record({ do: fc.constantFrom('finish', 'finish', 'fail'), key }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('abort'), key, by: fc.constantFrom('call', 'signal') }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('abortAll') }) },
  {
    weight: 16,
    // The times of LIMITS and of the settings below, and one millisecond to both sides.
    arbitrary: fc.record({
      do: fc.constant('advance'),
      ms: fc.constantFrom(1, 50, 75, 99, 100, 101, 199, 200, 299, 300, 301, 375, 499, 500, 501, 999, 1_000, 1_001)
    })
  }
)

const settings: fc.Arbitrary<ScheduleSettings> = fc
  .record({
    backpressure: fc.constantFrom('fastest', 'slowest', 'none'),
    whenFull: fc.constantFrom('evict', 'evict', 'reject'),
    bufferTTL: fc.constantFrom(1_000, 1_000, 0),
    orphanTimeout: fc.constantFrom(500, 500, 0, Infinity),
    maxStreamsPerOwner: fc.constantFrom(Infinity, 1),
    hasAmpleMemory: fc.constantFrom(true, true, false)
  })
  .map((drawn) => (drawn.hasAmpleMemory ? drawn : { ...drawn, bufferTTL: 1_000 }))

const commands = fc.array(command, { minLength: 1, maxLength: MAX_LENGTH, size: 'max' })

test(
  'whatever happens in whatever order, everybody is told the truth and nothing is left',
  { timeout: TIME_LIMIT_MS },
  async (t) => {
    let steps = 0
    await fc.assert(
      fc.asyncProperty(settings, commands, async (holds, history) => {
        const schedule = new Schedule(holds)
        for (const step of history) {
          await schedule.run(step)
          steps += 1
        }
        await schedule.close()
      }),
      {
        numRuns: RUNS,
        interruptAfterTimeLimit: TIME_LIMIT_MS - 10_000,
        ...(SEED !== undefined && { seed: Number(SEED) }),
        ...(PATH !== undefined && { path: PATH })
      }
    )
    t.ok(steps >= STEPS || PATH !== undefined, `${steps} steps`)
  }
)
