"""More questions about the training worlds, and readings of them: chains in the order in which they are found, and in any order."""
import sys, json, gzip, random
sys.path[:0]=["WORK"]
from learning import universe
from search_agent.episode import answer_prompt
from search_agent.types import Passage
D="WORK"
L=lambda p:[json.loads(l) for l in gzip.open(p,"rt")]
rows=L("WORK"); by={r["id"]:Passage(r["id"],r["title"],r["text"]) for r in rows}
WORDS=("mother","father","husband","date of birth","occupation","hobby")
worlds={}
for r in rows:
    name=r["id"].split("-"); w="-".join(name[:2]); facts={}
    for s in r["text"].split(". "):
        s=s.rstrip(".")
        for word in WORDS:
            pre=f"The {word} of {r['title']} is "
            if s.startswith(pre): facts[word]=s[len(pre):]
    assert facts, r
    worlds.setdefault(w,{})[r["title"]]=facts
train=L("WORK"); names=sorted({q["metadata"]["title"] for q in train}, key=lambda n:int(n.split("-")[1])); print(len(names), names[:3], names[-1])
test=L("WORK"); print(sorted({q["metadata"]["title"] for q in test}))
have={q["question"] for q in train}
# the parse gives the committed questions again
q0=universe.questions(names[0], worlds[names[0]], {1:10,2:45,3:45}, 0); print(sum(q.text in have for q in q0), len(q0))
asked=[]
for n in names: asked+=universe.questions(n, worlds[n], {1:40,2:140,3:160}, 0)
print(len(asked)); 
rng=random.Random(0); out=[]
for q in asked:
    gold=[by[g[0]] for g in q.gold_passages]; w=q.article
    pool=[by[i] for i in by if i.startswith(w+"-") and i not in q.gold_ids and q.golds[0] not in by[i].text]
    def ex(ps,a): out.append({"spans":[["environment",answer_prompt("answer",q.text,ps)],["policy",a]]})
    ex(gold,q.golds[0])
    ps=list(gold); ps.insert(rng.randrange(len(ps)+1), rng.choice(pool)); ex(ps,q.golds[0])
    if rng.random()<.5: ps=[*gold,*rng.sample(pool,rng.randint(0,2))]; rng.shuffle(ps); ex(ps,q.golds[0])
    if len(gold)>1 and rng.random()<.2: ex(gold[:-1]+[rng.choice(pool)]*(rng.random()<.7),"I do not know.")
rng.shuffle(out)
open(D+"reading-uni.jsonl","w").writelines(json.dumps(o)+"\n" for o in out); print(len(out), sum(len(str(o)) for o in out)/len(out), out[0], out[1])
