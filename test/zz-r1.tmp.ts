import {app, raw, sleep, timeout} from './zz-r-lib.tmp.ts'
const which = process.argv[2]
const T:any = {
 async inject() {
  const {f} = await app({}, f=>{ f.get('/a',(req:any,reply:any)=>reply.sseFromGenerator(async function*(){ for(let i=0;i<5;i++){ await sleep(5); yield 'e'+i } })) })
  const r = await f.inject({url:'/a'}); console.log(JSON.stringify(r.payload))
  const r2:any = await f.inject({url:'/a', payloadAsStream:true}); let t=''; for await (const c of r2.stream()) t+=c; console.log(JSON.stringify(t))
  await f.close()
 },
 async pipelined() {
  const {f,port} = await app({stallTimeout:2000}, f=>{
   f.get('/slow',async()=>{ await sleep(300); return 'ok' })
   f.get('/a',(req:any,reply:any)=>reply.sseFromGenerator(async function*(){}, {streamId:'a'}))
  })
  await f.sseStreams.start(async function*(){ for(let i=0;i<200;i++) yield 'x'.repeat(10000) },{streamId:'a'})
  await sleep(300)
  console.log(f.sseStreams.get('a'))
  const st = raw(port,'GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET /a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n')
  for(let i=0;i<8;i++){ await sleep(500); console.log(st.bytes, st.closed, f.sseStreams.stats().clients, st.buf.includes('stream-end')) }
  st.s.destroy(); await f.close()
 },
 async http10stall() {
  const {f,port} = await app({stallTimeout:500, heartbeatInterval:0}, f=>{
   f.get('/a',(req:any,reply:any)=>reply.sseFromGenerator(async function*(){ for(let i=0;;i++) {yield i+'x'.repeat(100000)} }, {streamId:'a',backpressure:'none',bufferBytes:64*1024*1024}))
  })
  const st = raw(port,'GET /a HTTP/1.0\r\naccept: text/event-stream\r\n\r\n')
  await sleep(200); st.s.pause(); await sleep(2500); console.log(f.sseStreams.stats().stalledClients); f.sseStreams.abortAll(); st.s.resume(); await sleep(1000)
  console.log({ended:st.ended, err:st.err?.code, closed:st.closed, bytes:st.bytes})
  await f.close()
 },
 async slowest() {
  const {f,port} = await app({backpressure:'slowest', bufferSize:40}, f=>{
   f.get('/a',(req:any,reply:any)=>reply.sseFromGenerator(async function*(){ for(let i=1;i<=100;i++) {await sleep(1); yield 'e'+i} }, {streamId:'a'}))
  })
  await f.sseStreams.start(async function*(){ for(let i=1;i<=100;i++) {await sleep(1); yield 'e'+i} }, {streamId:'a'})
  await sleep(300); console.log(f.sseStreams.get('a'))
  const st = raw(port,'GET /a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n')
  await sleep(1500); console.log(f.sseStreams.get('a')); console.log(st.buf.slice(-60))
  st.s.destroy(); await f.close()
 },
 async fastest() {
  const {f,port} = await app({bufferBytes: 1<<20, stallTimeout:Infinity, maxEventSize:200000}, f=>{
   f.get('/a',(req:any,reply:any)=>reply.sseFromGenerator(async function*(){ for(let i=1;;i++) {await sleep(1); yield i+'x'.repeat(100000)} }, {streamId:'a'}))
   f.get('/live',(req:any,reply:any)=>reply.sseAttach('a', {from:'live'}))
  })
  const st = raw(port,'GET /a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n')
  await sleep(50); st.s.pause(); await sleep(1500); const a=f.sseStreams.get('a').lastSequence; await sleep(200); console.log(a, f.sseStreams.get('a').lastSequence)
  const st2 = raw(port,'GET /live HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n')
  await sleep(1000); console.log(f.sseStreams.get('a').lastSequence, st2.bytes)
  st.s.destroy(); st2.s.destroy(); await f.close()
 },
 async closeOnSend() {
  const {f,port} = await app({abortTimeout:100}, f=>{
   f.addHook('onSend', async()=>{ await sleep(2500) })
   f.get('/a',(req:any,reply:any)=>reply.sseFromGenerator(async function*(s:any){ yield 'a'; await new Promise(r=>s.addEventListener('abort',r)) }, {streamId:'a'}))
  })
  const st = raw(port,'GET /a HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n')
  await sleep(200); const t=Date.now()
  try { await timeout(f.close(), 8000,'close') } catch(e){ console.log(String(e)) }
  console.log(Date.now()-t, st.buf, st.closed)
  process.exit()
 },
 async undef() {
  let n=0
  const {f} = await app({}, f=>{})
  await f.sseStreams.start(()=>({[Symbol.asyncIterator](){return {next: async()=>{n++; return undefined as any}}}}) as any,{streamId:'a'})
  await sleep(200); console.log(n, f.sseStreams.get('a')); await sleep(200); console.log(n); await f.close()
 },
 async evictLoop() {
  const {f} = await app({maxActiveStreams:1}, f=>{})
  let n=0
  const h = (signal:any)=>{ signal.addEventListener('abort',()=>{ if (n++<1000) f.sseStreams.start(h,{streamId:'r'}).catch((e:any)=>0) }); return (async function*(){ await sleep(1e6).valueOf; yield 'x' })() }
  await f.sseStreams.start(h,{streamId:'r'})
  await f.sseStreams.start(async function*(){yield 'x'; await sleep(100)} as any,{streamId:'b'})
  console.log('restarts', n); n=1e9; await f.close()
 },
}
await T[which]()
