"""The report's only script: what is chosen is shown, sliders slide, pictures enlarge. It needs no library."""

from __future__ import annotations

import base64
import hashlib

from nightaug.experiment.page import SLIDER_SCRIPT

# Elements of a group carry data-of and data-key; a select or radio button with data-picks shows those of its value.
SCRIPT = """'use strict';
let figure=null;
const all=(what,root=document)=>root.querySelectorAll(what);
const show=(group,value)=>{
  for(const e of all('[data-of="'+group+'"]'))e.toggleAttribute('hidden',e.dataset.key!==value);
  for(const b of all('[data-sets="'+group+'"]'))b.setAttribute('aria-pressed',b.value===value);
  if(group==='found')named()};
const arms=[...all('input[data-picks=found]')],large=document.getElementById('large');
const named=()=>{if(figure)large.querySelector('output').textContent=
  figure.querySelector('.chips [aria-pressed=true]').textContent};
for(const c of all('[data-picks]')){
  const go=()=>{if(c.type!=='radio'||c.checked)show(c.dataset.picks,c.value)};
  c.addEventListener('change',go);go()}
const choose=at=>{arms[at].checked=true;arms[at].dispatchEvent(new Event('change'))};
for(const b of all('[data-sets=found]'))b.addEventListener('click',()=>choose(+b.value));
if(large){
  const box=large.querySelector('.scroll');
  const turn=by=>choose((arms.findIndex(a=>a.checked)+by+arms.length)%arms.length);
  for(const b of all('.enlarge'))b.addEventListener('click',()=>{
    figure=b.parentElement;box.replaceChildren(figure.querySelector('.shot').cloneNode(true));named();large.showModal()});
  for(const b of all('[data-turn]',large))b.addEventListener('click',()=>turn(+b.dataset.turn));
  large.querySelector('[data-close]').addEventListener('click',()=>large.close());
  large.addEventListener('click',e=>{if(e.target===large)large.close()});
  large.addEventListener('close',()=>box.replaceChildren())}
""" + SLIDER_SCRIPT.strip()


def script_hash(script: str) -> str:
    """What a Content-Security-Policy needs to let this script, and no other, run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
