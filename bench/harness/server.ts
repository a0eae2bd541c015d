/** The server process: one contestant, told what to do by the runner. */
import {
  CONTESTANTS,
  type ContestantModule,
  type ContestantName,
  type Material,
  type StoreSetting
} from './contestant.ts'
import { Meter, held } from './meter.ts'
import { Profiler } from './profiler.ts'
import { Source, type Plan } from './source.ts'

/** What the runner gives a server process on its command line. */
export interface ServerSetting {
  readonly contestant: ContestantName
  readonly heartbeatMs?: number | undefined
  readonly history?: Material['history']
  readonly clients?: number
  readonly store?: StoreSetting | undefined
  readonly nodeOptions?: readonly string[]
}

/** A question to the server process, and what comes back under the same number. */
export interface Ask {
  readonly number: number
  readonly operation: string
  readonly argument: unknown
}
export interface Answer {
  readonly number: number
  readonly value?: unknown
  readonly error?: string
}

const setting = JSON.parse(process.argv[2] ?? '{}') as ServerSetting
const source = new Source()
const meter = new Meter()
const profiler = new Profiler()
const module = (await import(`../contestants/${CONTESTANTS[setting.contestant]}.js`)) as ContestantModule
const { port, operations = {} } = await module.start({
  source,
  heartbeatMs: setting.heartbeatMs,
  history: setting.history,
  clients: setting.clients ?? 1,
  store: setting.store
})

const common: Record<string, (argument: never) => unknown> = {
  port: () => port,
  waiting: () => source.waiting,
  run: (plan: Plan) => source.run(plan),
  stand: (plan: Plan | undefined) => source.stand(plan),
  begin: (delayResolutionMs: number) => meter.begin(delayResolutionMs),
  end: () => meter.end(),
  held,
  beginProfile: () => profiler.begin(),
  endProfile: (file: string) => profiler.end(file),
  ...operations
}

process.on('message', ({ number, operation, argument }: Ask) => void answer(number, operation, argument))
process.on('disconnect', () => process.exit())
reply({ number: 0 })

async function answer(number: number, operation: string, argument: unknown): Promise<void> {
  try {
    const perform = common[operation]
    if (perform === undefined) throw new Error(`${setting.contestant} has no "${operation}"`)
    reply({ number, value: await perform(argument as never) })
  } catch (error) {
    reply({ number, error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  }
}

function reply(message: Answer): void {
  // The runner may be gone.
  if (process.connected) process.send?.(message, undefined, undefined, () => {})
}
