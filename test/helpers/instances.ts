import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import type { Ask, Commands, InstanceOptions, Told } from '../fixtures/instance.ts'
import { builtFixture } from './built-fixture.ts'
import { eventually } from './eventually.ts'
import { LogLines } from './log-lines.ts'
import type { RedisServer } from './redis-server.ts'

/** Short, so that a test need not wait long, and long enough for a machine that does other things as well. */
export const LEASE_MS = 1_200
export const POLL_MS = 200

interface Waiting {
  resolve(value: never): void
  reject(error: Error): void
}

/** One instance, in a process of its own. */
export class Instance {
  readonly log: LogLines = new LogLines()
  /** Resolves with the exit code, or null where it was killed. */
  readonly exited: Promise<number | null>
  port = 0
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, Waiting>()
  #nextId = 1

  private constructor(child: ChildProcess) {
    this.#child = child
    child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.log.text += text))
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.errors += text))
    child.on('message', (told: Told) => this.#onTold(told))
    this.exited = this.#untilExit()
  }

  /** What it wrote to stderr: nothing, unless something has crashed. */
  errors = ''

  static async start(t: Test, options: InstanceOptions): Promise<Instance> {
    const child = fork(builtFixture('instance'), {
      execArgv: [],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      // JSON knows no Infinity.
      serialization: 'advanced'
    })
    const instance = new Instance(child)
    t.teardown(() => instance.kill())
    const listens = instance.#wait<number>(0)
    child.send(options)
    instance.port = await listens
    return instance
  }

  ask<Kind extends keyof Commands>(
    kind: Kind,
    ...args: Parameters<Commands[Kind]>
  ): Promise<Awaited<ReturnType<Commands[Kind]>>> {
    const id = this.#nextId++
    const told = this.#wait<Awaited<ReturnType<Commands[Kind]>>>(id)
    this.#child.send({ id, kind, args } satisfies Ask)
    return told
  }

  /** Ends it without a word, also while it is stopped. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.exited
  }

  freeze(): void {
    this.#child.kill('SIGSTOP')
  }

  thaw(): void {
    this.#child.kill('SIGCONT')
  }

  async #untilExit(): Promise<number | null> {
    const [code] = (await once(this.#child, 'exit')) as [number | null]
    for (const { reject } of this.#waiting.values()) reject(new Error(`The instance is gone: ${this.errors}`))
    return code
  }

  #wait<Value>(id: number): Promise<Value> {
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
    })
  }

  #onTold({ id, value, code, error }: Told): void {
    const waiting = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (error === undefined) waiting?.resolve(value as never)
    else waiting?.reject(Object.assign(new Error(error), { code }))
  }
}

export interface InstancesOptions extends Partial<Omit<InstanceOptions, 'redisPort'>> {
  /** Where they find the store, if not at the server itself: one for all, or one each. */
  readonly ports?: readonly number[] | undefined
}

/** Starts so many instances with one store. */
export async function startInstances(
  t: Test,
  redis: RedisServer,
  count: number,
  { ports = [], store, plugin, call = {}, username }: InstancesOptions = {}
): Promise<Instance[]> {
  return Promise.all(
    Array.from({ length: count }, (_, index) =>
      Instance.start(t, {
        redisPort: ports[index] ?? redis.port,
        store: { lease: LEASE_MS, pollInterval: POLL_MS, ...store },
        plugin: { retry: 10, ...plugin },
        call,
        username
      })
    )
  )
}

export async function startTwo(
  t: Test,
  redis: RedisServer,
  options: InstancesOptions = {}
): Promise<[Instance, Instance]> {
  return (await startInstances(t, redis, 2, options)) as [Instance, Instance]
}

/** The last event that the store has of a stream, by an instance that is not its home; undefined while it does not say. */
export async function storedSequence(other: Instance, name: string): Promise<number | undefined> {
  try {
    return (await other.ask('find', name))?.lastSequence
  } catch {
    return undefined
  }
}

export async function untilStored(other: Instance, name: string, count: number): Promise<void> {
  await eventually(`${count} events of ${name} are stored`, async () => (await storedSequence(other, name)) === count)
}
